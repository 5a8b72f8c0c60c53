"""Build the training corpus from Debian documentation packages (see PROVENANCE.md).

usage: build_corpus.py ROOT OUT.jsonl     ROOT/<package>/ holds `dpkg -x` of each package.
Every document is one JSON line {"src","doc","text"}; markup, code blocks and tables are dropped.
"""

import sys, re, json, zlib, struct, gzip, html, glob, os, random
from html.parser import HTMLParser

BLOCK = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "li",
    "dd",
    "dt",
    "div",
    "section",
    "blockquote",
    "td",
    "tr",
    "table",
    "ul",
    "ol",
    "dl",
    "body",
}
SKIP = {
    "pre",
    "script",
    "style",
    "table",
    "nav",
    "head",
    "svg",
    "form",
    "footer",
    "button",
    "aside",
    "dt",
}
SKIPCLASS = re.compile(
    r"\b(sphinxsidebar|related|navheader|navfooter|toc|sidebar|nav|highlight|menu-bar|footer|toctree-wrapper|headerlink|anchor|versionadded|deprecated|src|docblock-short|item-left|notices|nosearch|fancy_title|fancy_toc|searchmenu|mobilesubmenu|desktoponly)\b"
)


class X(HTMLParser):
    VOID = {
        "br",
        "img",
        "hr",
        "meta",
        "link",
        "input",
        "col",
        "wbr",
        "source",
        "area",
        "base",
        "embed",
        "param",
        "track",
    }

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.stack, self.skip, self.buf, self.paras = [], 0, [], []

    def flush(self):
        t = re.sub(r"\s+", " ", "".join(self.buf)).strip()
        self.buf = []
        if t:
            self.paras.append(t)

    def handle_starttag(self, tag, attrs):
        if tag in self.VOID:
            if tag == "br":
                self.buf.append(" ")
            return
        a = dict(attrs)
        sk = tag not in ("html", "body", "main") and (
            tag in SKIP
            or bool(SKIPCLASS.search(a.get("class") or ""))
            or bool(SKIPCLASS.search(a.get("id") or ""))
        )
        if tag in BLOCK and not self.skip:
            self.flush()
        self.stack.append((tag, sk))
        self.skip += sk

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if tag in BLOCK and not self.skip:
            self.flush()
        while self.stack:
            t, sk = self.stack.pop()
            self.skip -= sk
            if t == tag:
                break

    def handle_data(self, d):
        if not self.skip:
            self.buf.append(d)


ASCII = {
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2014": " - ",
    "\u2013": "-",
    "\u2026": "...",
    "\u00a0": " ",
    "\u2192": "->",
    "\u00b6": "",
    "\u2212": "-",
}


def norm(t):
    for a, b in ASCII.items():
        t = t.replace(a, b)
    return re.sub(r"[ \t]+", " ", t.encode("ascii", "ignore").decode()).strip()


def prose(t):
    """keep a paragraph only when it reads as a sentence"""
    if len(t) < 50 or not re.search(r"[.:!?)]$", t):
        return False
    al = sum(c.isalpha() or c == " " for c in t) / len(t)
    w = t.split()
    return al > 0.90 and len(w) >= 8 and sum(len(x) for x in w) / len(w) < 7.5 and t[0].isupper()


def html_docs(pattern):
    for f in sorted(glob.glob(pattern, recursive=True)):
        if not os.path.isfile(f) or os.path.islink(f):
            continue
        raw = gzip.open(f).read() if f.endswith(".gz") else open(f, "rb").read()
        p = X()
        try:
            p.feed(raw.decode("utf-8", "ignore"))
            p.flush()
        except Exception:
            continue
        ps = [q for q in map(norm, p.paras) if prose(q)]
        if sum(map(len, ps)) > 300:
            yield os.path.basename(f), ps


def sword(root):
    base = glob.glob(root + "/usr/share/sword/modules/texts/ztext/*/")[0]
    for tst in ("ot", "nt"):
        bzs, bzz = open(base + tst + ".bzs", "rb").read(), open(base + tst + ".bzz", "rb").read()
        for i in range(0, len(bzs) - 11, 12):
            off, cs, us = struct.unpack("<III", bzs[i : i + 12])
            if not cs:
                continue
            t = zlib.decompress(bzz[off : off + cs]).decode("utf-8", "ignore")
            for ch in re.split(r'<chapter [^>]*?(?:sID|osisID)="[^"]*"[^>]*>', t):
                ch = re.sub(r"<note.*?</note>", "", ch, flags=re.S)
                ch = re.sub(r"<title.*?</title>", "", ch, flags=re.S)
                ch = re.sub(
                    r"<div [^>]*type=\"(?:x-p|paragraph)\"[^>]*>|<p/?>|<lb [^>]*>|<lg[^>]*>",
                    "\n",
                    ch,
                )
                ch = norm2(html.unescape(re.sub(r"<[^>]+>", " ", ch)))
                if len(ch) > 300:
                    yield f"{tst}{i}", ch


def norm2(t):
    out = []
    for line in t.split("\n"):
        l = norm(line)
        l = re.sub(r"\s+([,.;:!?])", r"\1", l)
        if l:
            out.append(l)
    return merge(out)


def merge(ps):
    o = []
    for l in ps:
        if o and len(o[-1]) < 60:
            o[-1] += " " + l
        else:
            o.append(l)
    return "\n".join(o)


def dictd(root, name):
    d = root + f"/usr/share/dictd/{name}"
    data = gzip.open(d + ".dict.dz").read().decode("utf-8", "ignore")
    b64 = {
        c: i
        for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    }
    dec = lambda s: sum(b64[c] * 64**i for i, c in enumerate(reversed(s)))
    raw = gzip.open(d + ".dict.dz").read()
    seen = set()
    for line in open(d + ".index", encoding="utf-8", errors="ignore"):
        w, o, n = line.rstrip("\n").split("\t")[:3]
        o, n = dec(o), dec(n)
        if w.startswith("00") or (o, n) in seen:
            continue
        seen.add((o, n))
        t = raw[o : o + n].decode("utf-8", "ignore")
        ps = [norm(re.sub(r"\s+", " ", p)) for p in re.split(r"\n\s*\n", t)]
        t = "\n".join(re.sub(r"[{}]", "", p) for p in ps if p)
        if len(t) > 120:
            yield w, t


def main(root, out):
    R = lambda p: os.path.join(root, p)
    n = {}
    with open(out, "w") as f:

        def put(src, doc, text):
            f.write(json.dumps({"src": src, "doc": doc, "text": text}) + "\n")
            n[src] = n.get(src, 0) + len(text)

        for doc, t in sword(R("sword-text-web")):
            put("web", doc, t)
        for pkg, pat in [
            ("sqlite3-doc", "usr/share/doc/sqlite3/**/*.html*"),
            ("postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html/**/*.html*"),
            ("python3.11-doc", "usr/share/doc/python3.11/html/**/*.html"),
            ("apache2-doc", "usr/share/doc/apache2-doc/manual/en/**/*.html*"),
            ("rust-doc", "usr/share/doc/rust-doc/html/[beni]*/**/*.html"),
        ]:
            for doc, ps in html_docs(os.path.join(R(pkg), pat)):
                if "print.html" in doc:
                    continue
                put(pkg, doc, "\n".join(ps))
        for doc, t in dictd(R("dict-jargon"), "jargon"):
            put("dict-jargon", doc, t)
        for doc, t in dictd(R("dict-devil"), "devil"):
            put("dict-devil", doc, t)
    print(n, sum(n.values()))


main(*sys.argv[1:])
