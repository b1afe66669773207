"""What the servers of pages share."""
