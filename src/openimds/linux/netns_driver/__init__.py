"""The netns compute driver: instances that are namespaces."""
