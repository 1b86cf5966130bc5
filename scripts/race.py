"""Plot runs' FID over training time: `python scripts/race.py out.png <run> [<run> ...]`."""

from diffusion_lab.tools.race import main

if __name__ == "__main__":
    main()
