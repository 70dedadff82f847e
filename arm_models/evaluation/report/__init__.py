"""What was measured, to read and to work with: tables, JSON, CSV, pictures, a page, AlpacaEval's form."""
