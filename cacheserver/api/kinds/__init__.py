"""The served kinds, one file each: row, columns, fields, projection."""
