"""ServerActions: opened in order, carried out by agents or by the operator, closed, kept as history."""
