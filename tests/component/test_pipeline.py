# CLAIMED at 04:31: another helper is writing this file now; leave it alone and go on with what is not claimed.
