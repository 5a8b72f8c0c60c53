"""What two parties of the open token record must compute alike; pure, offline, typed."""
