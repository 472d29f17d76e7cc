"""Reports, charts and tables: records in, text out."""
