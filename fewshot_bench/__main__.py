"""Run the `fsbench` command line as `python -m fewshot_bench`."""

from fewshot_bench.cli.main import main

if __name__ == "__main__":
    main()
