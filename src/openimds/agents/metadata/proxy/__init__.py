"""Signs requests and forwards them to the metadata API."""
