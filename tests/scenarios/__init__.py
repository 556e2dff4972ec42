"""The zoo: small real trainings, each with its trouble by the true cause, and a healthy twin."""
