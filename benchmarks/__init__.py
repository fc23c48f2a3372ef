"""What Huizhi does a second, beside what PostgreSQL does alone in the same run: `make bench`."""
