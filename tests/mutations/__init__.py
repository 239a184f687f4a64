"""Small changes of the code, each of which some test must notice: `make mutate` tries them one by one."""
