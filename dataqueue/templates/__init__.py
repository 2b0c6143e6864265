"""What ``dataqueue init`` writes."""
