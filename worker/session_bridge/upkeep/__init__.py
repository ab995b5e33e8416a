"""What a worker does for the archive besides filling it: refreshing views, embedding calls."""
