"""What every stage shares: errors, atomic files, stage identity, artifacts and runs."""
