"""Any model that can be evaluated: ours, a cascade, a Hugging Face folder, a served endpoint. All are asked in text."""
