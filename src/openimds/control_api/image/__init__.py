"""Glance's API v2: images that servers refer to, and their data.

Modules, in reading order:

- `images`: routes of images, their tags and their data
- `schema`: attributes of an image as JSON, and their validation
- `policies`: the rules, and the attributes that they decide about
- `protocols`: the store that the service needs
"""
