package config

import (
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/weirproxy/weir/upstream"
)

// readableByAll is the permission that makes a file everybody's.
const readableByAll fs.FileMode = 0o004

// modeOf is the mode of a file, if that can be known.
func modeOf(path string) (fs.FileMode, bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Mode().Perm(), true
}

// exposed says that every user of the machine can read a file, or "".
func (s Source) exposed(file string) string {
	if s.Mode == nil {
		return ""
	}
	mode, known := s.Mode(file)
	if !known || mode&readableByAll == 0 {
		return ""
	}
	return fmt.Sprintf("can be read by every user of this machine (mode %04o); expected 0600, or 0640 for weir's group", mode)
}

// credentials are those of a URL.
var credentials = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://[^@/?#]*:[^@/?#]+@`)

// checkKept looks at where a value is kept that is, or holds, a secret: in a file of its own, or in the configuration file itself.
func (r *reader) checkKept(path string, secret bool) {
	if file, ok := r.inFiles[path]; ok {
		if problem := r.src.exposed(r.src.located(file)); problem != "" {
			r.warn(path, "is in the file "+file+", which "+problem)
		}
	}
	if secret && !r.expanded[path] {
		r.literal = true
	}
}

// checkFiles finds files with secrets that everybody can read: the configuration itself, the key of the certificate, and those
// that upstreams name.
func (r *reader) checkFiles(cfg *Config) {
	if problem := r.src.exposed(r.src.File); problem != "" && r.literal {
		r.warn("", "holds secrets and "+problem+", or ${NAME} or ${file:…} in the place of the secrets")
	}
	if problem := r.src.exposed(cfg.TLS.Key); problem != "" && cfg.TLS.Mode != TLSDisable {
		r.warn("tls.key", problem)
	}
}

// checkUpstreamFiles does it for one upstream.
func (r *reader) checkUpstreamFiles(path string, u *upstream.Upstream) {
	for _, file := range u.SecretFiles() {
		if problem := r.src.exposed(file); problem != "" {
			r.warn(path, "uses the file "+file+", which "+problem)
		}
	}
}
