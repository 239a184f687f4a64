"""Files of columns as libraries keep them, Arrow and Parquet: looked at before a library reads them."""
