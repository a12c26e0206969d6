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
EXAMPLES = contrib/pen@.service contrib/pen.init contrib/dns.cfg contrib/syslog.cfg contrib/sip.cfg \
	contrib/penlogd.service contrib/penlog@.service contrib/penlog@.socket
PROGRAMS = pen penctl penlog penlogd mergelogs

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

# The cost of the parts, then of the whole beside HAProxy, nginx and Debian's pen: connections, HTTP headers, TLS, UDP; and
# the log tools beside Debian's.
bench:
	sh contrib/setup.sh bench
	$(CARGO) bench --locked
	bash benches/tcp.sh
	bash benches/workers.sh
	bash benches/http.sh
	bash benches/tls.sh
	bash benches/udp.sh
	bash benches/dns.sh
	bash benches/logs.sh

# Does not build what is built already, so that it can run as a user who has no compiler.
install:
	for program in $(PROGRAMS); do test -x target/release/$$program || exec $(MAKE) all; done
	install -d '$(bindir)' '$(mandir)' '$(docdir)/examples' '$(compdir)'
	install -m 755 $(PROGRAMS:%=target/release/%) '$(bindir)'
	install -m 644 $(PROGRAMS:%=man/%.1) '$(mandir)'
	install -m 644 contrib/penctl.bash '$(compdir)/penctl'
	install -m 644 $(DOCS) '$(docdir)'
	install -m 644 $(EXAMPLES) '$(docdir)/examples'
	install -m 755 contrib/penctl.cgi '$(docdir)/examples/penctl.cgi'

uninstall:
	for program in $(PROGRAMS); do rm -f '$(bindir)'/$$program '$(mandir)'/$$program.1; done
	rm -f '$(compdir)/penctl'
	rm -rf '$(docdir)'

clean:
	$(CARGO) clean
