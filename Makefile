# Each target sets up .venv by itself, the first time and whenever pyproject.toml changes.
.PHONY: demo test check fix test-comfyui test-browser

demo:
	@scripts/setup
	.venv/bin/conceptloom demo

test:
	@scripts/test

check:
	@scripts/check

fix:
	@scripts/fix

test-comfyui:
	@scripts/test-comfyui

test-browser:
	@scripts/test-browser
