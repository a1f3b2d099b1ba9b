"""The metadata service, without its transport. Serves the metadata API, and the metadata agent.

- handler: the steps of a request
- authenticators: the instance of a request, by signature or address
- session_tokens: checks and issues session tokens (IMDSv2)
- document_cache: renders documents, and keeps them with the instance's record
- instance_cache: records of instances, until they change
- instance_loader: reads records in batches
- invalidation: polls changes, and drops outdated records
- vendordata: dynamic vendor data
- response: response headers, log line, replay, and error responses
- rate_limit: limits of ports and of unknown clients
- request_log: the log line and the ID of a request
- metrics: counters
"""
