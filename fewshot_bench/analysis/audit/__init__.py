"""Audits of records: data that methods saw, choices that they made, fairness of the comparison."""
