package admin

// Config is the admin listener. Without tokens it answers loopback clients only, and nothing can be changed through it.
type Config struct {
	Listen     string `yaml:"listen"`      // host:port of the listener; its absence means no listener
	ReadToken  string `yaml:"read_token"`  // bearer token that may read metrics and state
	WriteToken string `yaml:"write_token"` // bearer token that may also change things and profile the process
}
