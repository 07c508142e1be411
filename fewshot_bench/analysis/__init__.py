"""From records to displayed results: tables, statistics, audits, sweeps."""
