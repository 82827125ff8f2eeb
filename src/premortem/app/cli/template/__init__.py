"""What `premortem new` copies: a risk that works as it stands, to be turned into your own."""
