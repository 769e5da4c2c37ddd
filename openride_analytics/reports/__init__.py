"""Reports: files that people get, made from the answers of the metrics endpoints and the exports."""
