from lensfind.cli import simulate

if __name__ == "__main__":
    simulate()
