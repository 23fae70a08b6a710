"""For other libraries: tracing, reports of errors. Each module needs an extra of its own."""
