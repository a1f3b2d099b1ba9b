"""The parts that every process needs: life cycle, logs, metrics, readiness and sockets kept by the service manager."""
