"""Tables: rows of numbers, categories and dates, possibly with missing cells; every conditional is learned."""
