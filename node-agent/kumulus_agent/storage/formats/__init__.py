"""What a file of each format says of itself: read strictly, before a tool opens it."""
