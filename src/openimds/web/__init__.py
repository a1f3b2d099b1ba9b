"""What is served over HTTP: the guest API, the control API (one folder a service), and errors turned into statuses."""
