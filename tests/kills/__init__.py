"""A cloud at work whose processes are killed: what was acknowledged must be there, done once, and all READY again.

`campaign` joins the parts: `load` asks for predictions, sends events and changes things, `killer` kills, `recovery`
sees when what was killed is back, `examination` looks for what was lost or done twice, `journal` keeps what happened.
"""
