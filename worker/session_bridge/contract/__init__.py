"""The live session as every writer and reader of it agrees it is: names, families, models, limits."""
