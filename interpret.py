from lensfind.cli import interpret

if __name__ == "__main__":
    interpret()
