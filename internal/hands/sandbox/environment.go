package sandbox

import "maps"

// Environment is that of a sandbox's shell, as NAME=value: what every shell needs,
// and the variables given. Later ones take the place of earlier ones, for programs
// differ in which of two of the same name they believe.
func Environment(given ...map[string]string) []string {
	all := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
	for _, more := range given {
		maps.Copy(all, more)
	}
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	return env
}
