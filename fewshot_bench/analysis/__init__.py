"""From records to numbers that are shown: tables, statistics, audits, sweeps."""
