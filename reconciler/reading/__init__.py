"""What the API, the dashboard and the command line read: rows of the database as their JSON, by theme."""
