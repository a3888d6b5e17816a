"""The networks that this host carries, kept equal to what the API says of them."""
