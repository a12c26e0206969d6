# pen: build, show, test, install. Everything else is cargo's.

CARGO   = cargo
PREFIX  = /usr/local
DESTDIR =

bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man/man1
docdir = $(DESTDIR)$(PREFIX)/share/doc/pen
compdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions

# Where rustup puts cargo, and where Debian keeps programs for root.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

DOCS     = README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE
EXAMPLES = contrib/pen@.service contrib/pen.init contrib/dns.cfg contrib/syslog.cfg contrib/sip.cfg

.PHONY: all demo check bench install uninstall clean

all:
	$(CARGO) build --release --locked

# Two small web servers, pen in front of them, and what becomes of requests.
demo:
	sh contrib/setup.sh demo
	$(CARGO) build --release --locked
	bash contrib/demo.sh target/release/pen

# Everything that must be green before a change is taken.
check:
	sh contrib/setup.sh check
	bash contrib/check.sh

# The cost of the parts, then of the whole beside Debian's pen, and of HTTP headers, TLS and UDP beside other balancers.
bench:
	sh contrib/setup.sh bench
	$(CARGO) bench --locked
	bash benches/compare.sh
	bash benches/http.sh
	bash benches/tls.sh
	bash benches/udp.sh
	bash benches/dns.sh

# Does not build what is built already, so that it can run as a user who has no compiler.
install:
	{ test -x target/release/pen && test -x target/release/penctl; } || $(MAKE) all
	install -d '$(bindir)' '$(mandir)' '$(docdir)/examples' '$(compdir)'
	install -m 755 target/release/pen '$(bindir)/pen'
	install -m 755 target/release/penctl '$(bindir)/penctl'
	install -m 644 man/pen.1 '$(mandir)/pen.1'
	install -m 644 man/penctl.1 '$(mandir)/penctl.1'
	install -m 644 contrib/penctl.bash '$(compdir)/penctl'
	install -m 644 $(DOCS) '$(docdir)'
	install -m 644 $(EXAMPLES) '$(docdir)/examples'
	install -m 755 contrib/penctl.cgi '$(docdir)/examples/penctl.cgi'

uninstall:
	rm -f '$(bindir)/pen' '$(mandir)/pen.1'
	rm -f '$(bindir)/penctl' '$(mandir)/penctl.1' '$(compdir)/penctl'
	rm -rf '$(docdir)'

clean:
	$(CARGO) clean
