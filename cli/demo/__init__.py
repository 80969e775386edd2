"""`conceptloom demo`: what each method does, on the bundled model, as one page with figures."""
