"""Attacks of our own on the Python jail, beside those of attacks/python.json: each sets `result` to something that
begins with PWNED where it succeeds. PORT, PPID, DATA_FILE and SECRET are put in by who runs them."""

# ruff: noqa: E501 - as an assistant would send it

ATTACKS: dict[str, str] = {
    # memory of this process and of others
    "scribble over None": "import ctypes\nctypes.memset(id(None), 255, 64)\nresult=str(None)",
    "read at one": "import ctypes\nresult='PWNED '+repr(ctypes.string_at(1, 8))",
    "scribble over the heap": "import ctypes\nfor o in range(2000): ctypes.memset(id(df)+o*64, 65, 64)\nresult=len(df)",
    "search memory for the secret": (
        "import gc,sys\nn=''.join(reversed('TERCESPOT'))\nD=[o for o in gc.get_objects() if isinstance(o,dict)]\n"
        "D+=[vars(m) for m in sys.modules.values()]\n"
        "result='PWNED' if any(isinstance(v,str) and n in v and v is not n for d in D for v in list(d.values())) else len(D)"
    ),
    "environment": "import os\nresult='PWNED' if any('TOPSEC' in k+v for k,v in os.environ.items()) else sorted(os.environ)",
    "environment of libc": (
        "import ctypes\ne=ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None),'environ')\n"
        "l=[]\ni=0\nwhile e[i]: l.append(e[i]); i+=1\nresult='PWNED' if any(b'TOPSEC' in x for x in l) else len(l)"
    ),
    "frames up to the runner": (
        "import sys\nf=sys._getframe()\nl=[]\nwhile f: l+=list(f.f_locals)+list(f.f_globals); f=f.f_back\n"
        "result='PWNED' if any('token' in x.lower() or 'password' in x.lower() for x in l) else len(l)"
    ),
    "format string": "class A:\n  def __init__(s): pass\nresult='{0.__init__.__globals__}'.format(A())[:2000]\nresult='PWNED' if 'TOPSEC' in result else 'ok'",
    "write to another's memory": (
        "import ctypes,os\nl=ctypes.CDLL(None)\nb=ctypes.create_string_buffer(8)\n"
        "class V(ctypes.Structure): _fields_=[('p',ctypes.c_void_p),('n',ctypes.c_size_t)]\n"
        "v=V(ctypes.addressof(b),8)\nr=l.process_vm_writev(os.getppid(),ctypes.byref(v),1,ctypes.byref(v),1,0)\nresult='PWNED' if r>0 else 'denied'"
    ),
    "own memory file": "f=open('/proc/self/mem','r+b')\nresult='PWNED mem'",
    "parent's memory file": "f=open('/proc/%d/mem'%PPID,'rb')\nresult='PWNED mem'",
    # code
    "mprotect to executable": (
        "import ctypes,mmap\nm=mmap.mmap(-1,4096)\na=ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "r=ctypes.CDLL(None).mprotect(ctypes.c_void_p(a),4096,5)\nresult='PWNED' if r==0 else 'denied'"
    ),
    "mprotect all of it": (
        "import ctypes,mmap\nm=mmap.mmap(-1,4096)\na=ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "l=ctypes.CDLL(None)\nresult='PWNED' if any(l.mprotect(ctypes.c_void_p(a),4096,p|4)==0 for p in range(8)) else 'denied'"
    ),
    "pkey_mprotect": (
        "import ctypes,mmap\nm=mmap.mmap(-1,4096)\na=ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "r=ctypes.CDLL(None).pkey_mprotect(ctypes.c_void_p(a),4096,7,-1)\nresult='PWNED' if r==0 else 'denied'"
    ),
    "personality": "import ctypes\nr=ctypes.CDLL(None).personality(0x0400000)\nresult='PWNED' if r>=0 else 'denied'",
    "load a library": "import ctypes\nctypes.CDLL('libresolv.so.2')\nresult='PWNED'",
    "load an extension": (
        "import importlib.machinery as m,importlib.util as u\n"
        "s=u.spec_from_file_location('x','/usr/lib/x.so',loader=m.ExtensionFileLoader('x','/usr/lib/x.so'))\n"
        "u.module_from_spec(s)\nresult='PWNED'"
    ),
    "import what is not loaded": "import sqlite3\nresult='PWNED' if sqlite3.connect('/dev/shm/x') else 0",
    "numpy loads a library": "np.ctypeslib.load_library('libm.so.6','/lib')\nresult='PWNED'",
    "import from a zip": "import sys\nsys.path.insert(0,DATA_FILE)\nimport attack_me\nresult='PWNED'",
    # processes, threads, signals
    "fork bomb": "import os\nn=0\nfor i in range(2000):\n  try:\n    if os.fork()==0: os._exit(0)\n    n+=1\n  except OSError: pass\nresult='PWNED %d'%n if n else 'denied'",
    "vfork and clone": "import ctypes\nl=ctypes.CDLL(None)\nr=[l.syscall(n,17,0,0,0,0) for n in (56,58,435)]\nresult='PWNED' if any(x>=0 for x in r) else 'denied'",
    "multiprocessing": "import multiprocessing as m\np=m.Process(target=print)\np.start()\nresult='PWNED'",
    "popen": "import os\nresult='PWNED '+os.popen('id').read()",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true',['true'],{})\nresult='PWNED'",
    "exec": "import os\nos.execv('/bin/true',['true'])",
    "low threads": "import _thread\nfor i in range(50): _thread.start_new_thread(lambda: None,())\nresult='PWNED'",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor as T\nresult='PWNED %s'%T(4).submit(int).result(1)",
    "kill the zygote": "import os,signal\nos.kill(os.getppid(),signal.SIGKILL)\nresult='PWNED'",
    "kill the group": "import os,signal\nos.killpg(0,signal.SIGKILL)\nresult='PWNED'",
    "pidfd": "import os\nos.pidfd_open(os.getppid())\nresult='PWNED'",
    "queue a signal": "import ctypes,os\nr=ctypes.CDLL(None).sigqueue(os.getppid(),9,0)\nresult='PWNED' if r==0 else 'denied'",
    "outlive the parent": "import ctypes\nr=ctypes.CDLL(None).prctl(1,0,0,0,0)\nresult='PWNED' if r==0 else 'denied'",
    "a session of its own": "import os\nos.setsid()\nresult='PWNED'",
    # limits
    "raise every limit": (
        "import resource\nok=[]\nfor r in range(16):\n  try: resource.setrlimit(r,(resource.RLIM_INFINITY,)*2); ok.append(r)\n"
        "  except (ValueError,OSError): pass\nresult='PWNED %s'%ok if ok else 'denied'"
    ),
    "limits of the zygote": "import resource,os\nresource.prlimit(os.getppid(),resource.RLIMIT_CPU,(1,1))\nresult='PWNED'",
    "renice": "import os\nos.setpriority(os.PRIO_PROCESS,0,0)\nresult='PWNED'",
    "affinity": "import os\nos.sched_setaffinity(0,[0])\nresult='PWNED'",
    "two gigabytes of ones": "x=np.ones(1<<28)\nresult='PWNED'",
    "two gigabytes of zeros": "x=np.zeros(1<<28)\nx[::512]=1\nresult='PWNED'",
    "map two gigabytes": "import mmap\nm=mmap.mmap(-1,2<<30)\nresult='PWNED'",
    "grow a mapping": "import mmap\nm=mmap.mmap(-1,1<<20)\nm.resize(1<<30)\nresult='PWNED'",
    "catch MemoryError for ever": "L=[]\nwhile len(L)<10000:\n  try: L.append(bytearray(1<<20))\n  except MemoryError: break\nresult='PWNED' if len(L)>320 else len(L)",
    "lock memory": "import ctypes\nr=ctypes.CDLL(None).mlockall(3)\nresult='PWNED' if r==0 else 'denied'",
    "a table of two gigabytes": "d=pd.concat([df]*100000)\nfor i in range(9): d=pd.concat([d,d])\nresult='PWNED'",
    "deep repr": "x=[]\nfor i in range(10**6): x=[x]\nresult=repr(x)",
    # files, by every name
    "write a file": "open('/tmp/pwn_%d'%PORT,'w').write('x')\nresult='PWNED'",
    "append to the data": "open(DATA_FILE,'ab').write(b'x')\nresult='PWNED'",
    "truncate the data": "import os\nos.truncate(DATA_FILE,0)\nresult='PWNED'",
    "remove the data": "import os\nos.unlink(DATA_FILE)\nresult='PWNED'",
    "rename the data": "import os\nos.rename(DATA_FILE,DATA_FILE+'.x')\nresult='PWNED'",
    "make a folder": "import os\nos.mkdir('/tmp/pwn_%d'%PORT)\nresult='PWNED'",
    "shared memory": "from multiprocessing import shared_memory as s\nresult='PWNED %s'%s.SharedMemory(create=True,size=10)",
    "temporary file": "import tempfile\nresult='PWNED %s'%tempfile.TemporaryFile()",
    "chdir": "import os\nos.chdir('/tmp')\nresult='PWNED'",
    "list folders": "import os\nresult='PWNED %s'%os.listdir('/')",
    "np.load": "result='PWNED %s'%np.load(DATA_FILE,allow_pickle=True)",
    "np.memmap": "m=np.memmap(DATA_FILE,mode='r+')\nresult='PWNED'",
    "np.save": "np.save('/tmp/pwn_%d'%PORT,np.ones(3))\nresult='PWNED'",
    "pandas writes csv": "df.to_csv('/tmp/pwn_%d'%PORT)\nresult='PWNED'",
    "pandas writes a pickle": "df.to_pickle('/tmp/pwn_%d'%PORT)\nresult='PWNED'",
    "pandas reads a pickle that runs": (
        "import io,pickle,os\nclass E:\n  def __reduce__(s): return (os.mkdir,('/tmp/pwn_%d'%PORT,))\n"
        "pd.read_pickle(io.BytesIO(pickle.dumps(E())))\nresult='PWNED'"
    ),
    "pandas query with a global": "result='PWNED %s'%df.query('@pd.read_csv(\"/etc/passwd\") is not None')",
    "pandas eval import": "result='PWNED %s'%pd.eval('__import__(\"os\").listdir(\"/\")',engine='python')",
    "pandas reads the clipboard": "result='PWNED %s'%pd.read_clipboard()",
    "pandas reads html": "result='PWNED %s'%pd.read_html('http://127.0.0.1:%d/'%PORT)",
    "pyplot reads an image": "result='PWNED %s'%plt.imread('/etc/hostname')",
    "pyplot reads a style": "plt.style.use('/etc/hostname')\nresult='PWNED'",
    "a font of any path": "from matplotlib.font_manager import FontProperties as F\nplt.title('x',fontproperties=F(fname='/etc/hostname'))\nplt.gcf().canvas.draw()\nresult='PWNED'",
    "add a font": "from matplotlib import font_manager as f\nf.fontManager.addfont('/etc/hostname')\nresult='PWNED'",
    "pdf to a file": "plt.plot([1])\nplt.savefig('/tmp/pwn_%d.pdf'%PORT)\nresult='PWNED'",
    "animation runs ffmpeg": (
        "from matplotlib import animation as a\nf=plt.figure()\na.FuncAnimation(f,lambda i:[],3).save('/tmp/pwn_%d.mp4'%PORT)\nresult='PWNED'"
    ),
    "tex to dvi": "from matplotlib.texmanager import TexManager as T\nT.make_dvi('x',10)\nresult='PWNED'",
    "kept fonts are not files": "import io\nresult='PWNED' if io.open('/etc/../etc/hostname','rb') else 0",
    "a path object that changes": (
        "class P:\n  n=0\n  def __fspath__(s): s.n+=1; return DATA_FILE if s.n>1 else 'x'\nresult='PWNED %s'%open(P(),'rb').read(1)"
    ),
    # the network, kernel interfaces
    "raw socket call": "import ctypes\nr=[ctypes.CDLL(None).syscall(n,2,1,0) for n in (41,53,198,199)]\nresult='PWNED' if any(x>=0 for x in r) else 'denied'",
    "resolve a name": "import socket\nresult='PWNED %s'%socket.getaddrinfo('localhost',80)",
    "urllib": "import urllib.request\nresult='PWNED %s'%urllib.request.urlopen('http://127.0.0.1:%d/'%PORT)",
    "netlink": "import socket\nsocket.socket(16,3,0)\nresult='PWNED'",
    "mount": "import ctypes\nr=ctypes.CDLL(None).mount(b'none',b'/tmp',b'tmpfs',0,0)\nresult='PWNED' if r==0 else 'denied'",
    "chroot": "import os\nos.chroot('/tmp')\nresult='PWNED'",
    "become root": "import os\nos.setuid(0)\nresult='PWNED' if os.getuid()==0 and PPID else 'no'",
    "io_uring, bpf, userfaultfd, perf, keys": (
        "import ctypes\nl=ctypes.CDLL(None)\nr={n:l.syscall(n,0,0,0,0,0) for n in (425,426,427,321,323,298,248,249,250,319,447,438,434,440)}\n"
        "result='PWNED %s'%r if any(x>=0 for x in r.values()) else 'denied'"
    ),
    "a filter of its own": "import ctypes\nr=ctypes.CDLL(None).syscall(317,0,0,0)\nresult='PWNED' if r>=0 else 'denied'",
    # its own machinery
    "close the way out": "import os\nos.closerange(0,20)\nresult='ok'",
    "quiet end": "import os\nos._exit(0)",
    "end with an error": "import os\nos._exit(3)",
    "abort": "import os\nos.abort()",
    "system exit": "raise SystemExit(0)",
    "trace the runner": (
        "import sys,os\ndef t(f,e,a):\n  try: os.listdir('/'); global result; f.f_globals['PWNED']=1\n  except OSError: pass\n  return t\n"
        "sys.settrace(t)\nresult='ok'"
    ),
    "profile the runner": "import sys\nsys.setprofile(lambda f,e,a: 1/0)\nresult='ok'",
    "spoil json": "import json\njson.dumps=lambda *a,**k: 'PWNED'\nresult='ok'",
    "spoil struct": "import gateway.jail.frames as f\nf.HEAD=None\nresult='ok'",
    "spoil the modules": "import sys\nsys.modules.clear()\nresult='ok'",
    "no builtins": "import builtins\nfor n in list(vars(builtins)):\n  if n!='delattr': delattr(builtins,n)",
    "no stdout": "import sys\nsys.stdout.close()\nsys.stdout=None\nresult='ok'",
    "words of an exception that loop": "class E(Exception):\n  def __str__(s): raise KeyboardInterrupt\nraise E",
    "words of an exception that colour": "raise ValueError('\\x1b[31mPWNED\\x1b[0m \\u202e\\x00')",
    "a class that lies": (
        "class L:\n  def __getattr__(s,n): return L()\n  def __call__(s,*a): return L()\n  def __iter__(s): return s\n"
        "  def __next__(s): return L()\nresult=L()"
    ),
    "half a surrogate": "result=['\\ud800', {'\\udfff': 1}]",
    "numbers that are none": "result=[float('nan'),float('inf'),10**4000,-10**400,1e308*10,2**63]",
    "keys of all kinds": "result={None:1,(1,2):2,float('nan'):3,b'x':4,pd.Timestamp(0):5}",
    "a list in itself": "result=[]\nresult.append(result)",
    "a dictionary that grows": "class D(dict):\n  def items(s): return ((i,i) for i in iter(int,1))\nresult=D(a=1)",
    "huge repr": "class R:\n  def __repr__(s): return 'x'*10**10\nresult=R()",
    "huge result": "result=['x'*1000]*10**6",
    "huge output": "print('x'*10**8)\nprint('y'*10**8)\nresult='ok'",
    "output past Python": "import os\nfor i in range(20000): os.write(1,b'x'*65536); os.write(2,b'x'*65536)\nresult='ok'",
    "flood the way out": "import os\nwhile True: os.write(3,b'x'*65536)",
}
"""Each ends by itself."""

ENDLESS: dict[str, str] = {
    "deaf to signals": (
        "import signal\nfor s in set(signal.Signals)-{signal.SIGKILL,signal.SIGSTOP}: signal.signal(s,signal.SIG_IGN)\nwhile True: pass"
    ),
    "sleep": "import time\nwhile True:\n  try: time.sleep(10**6)\n  except BaseException: pass",
    "in C": "result=pow(3,10**10)",
    "regular expression": "import re\nre.match('(a+)+$','a'*60+'b')",
    "in the result": "class E:\n  def __repr__(s):\n    while True: pass\nresult=E()",
    "iterate for ever": "class I(list):\n  def __iter__(s):\n    while True: yield 1\n  def __len__(s): return 1\nresult=sum(I())",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "while failing": "class E(Exception):\n  def __str__(s):\n    while True: pass\nraise E",
}
"""Each ends at its time limit."""
