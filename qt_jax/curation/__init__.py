"""What people do to datasets: convert, write, repack, validate, inspect."""
