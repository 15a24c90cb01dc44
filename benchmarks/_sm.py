import time
from benchmarks import step_memory as s
for i in (4,5,7,-4,-1):
    size=s.SIZES[i]; t=time.time(); print(size, s.peaks_of(size), s.weights(size), round(time.time()-t,1), flush=True)
print(s.sent_row(s.SIZES[-1])); print(s.sent_row(s.SIZES[-3]))
