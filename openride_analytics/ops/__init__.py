"""What operators look at: logs and process metrics."""
