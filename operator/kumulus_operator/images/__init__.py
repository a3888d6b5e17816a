"""Images: which host imports them."""
