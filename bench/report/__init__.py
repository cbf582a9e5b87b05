"""What was measured: figures, tables, pictures."""
