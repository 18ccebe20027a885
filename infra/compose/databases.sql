-- Run once by the image of PostgreSQL, when its volume is empty. POSTGRES_DB has made the database of MLflow.
CREATE DATABASE prefect OWNER lacewing;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
