r"""How an attempt is judged: cases are drawn, the function runs within limits, and what is wrong is put into words."""
