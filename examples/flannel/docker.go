package flannel

import (
	"flag"
	"fmt"
	"strings"

	"github.com/podweft/podweft"
)

// dockerOptions are those of flannel's mk-docker-opts.
type dockerOptions struct {
	file                 string
	individual, combined bool
	noMasq               bool
	key                  string
}

func (d *dockerOptions) flags(f *flag.FlagSet) {
	f.StringVar(&d.file, "docker-file", "/run/docker_opts.env", "docker-opts: where to write")
	f.BoolVar(&d.individual, "docker-individual", false, "docker-opts: one variable for each option, and no other")
	f.BoolVar(&d.combined, "docker-combined", false, "docker-opts: one variable for all options, and no other")
	f.BoolVar(&d.noMasq, "docker-no-masq", false, "docker-opts: leave --ip-masq out")
	f.StringVar(&d.key, "docker-key", "DOCKER_OPTS", "docker-opts: the name of the variable for all options")
}

// write makes Docker's options of the subnet file: docker0 then has the node's subnet, and its MTU. Docker is not to masquerade
// where the daemon does.
func (d *dockerOptions) write(subnetFile string) error {
	vars, err := readSubnetFile(subnetFile)
	if err != nil {
		return fmt.Errorf("the daemon has not written the node's subnet yet: %w", err)
	}
	options := []struct{ name, text string }{{"BIP", "--bip=" + vars["FLANNEL_SUBNET"]}}
	if vars["FLANNEL_SUBNET"] == "" || vars["FLANNEL_MTU"] == "" {
		return &podweft.FieldError{Field: "FLANNEL_SUBNET", Problem: "is missing in " + subnetFile, Remedy: "docker0 wants an IPv4 subnet: enable IPv4 in net-conf.json"}
	}
	if !d.noMasq {
		options = append(options, struct{ name, text string }{"IPMASQ", fmt.Sprintf("--ip-masq=%t", vars["FLANNEL_IPMASQ"] != "true")})
	}
	options = append(options, struct{ name, text string }{"MTU", "--mtu=" + vars["FLANNEL_MTU"]})
	var b, all strings.Builder
	for _, o := range options {
		if !d.combined {
			fmt.Fprintf(&b, "DOCKER_OPT_%s=%q\n", o.name, o.text)
		}
		all.WriteString(" " + o.text)
	}
	if !d.individual {
		fmt.Fprintf(&b, "%s=%q\n", d.key, all.String())
	}
	return replaceFile(d.file, []byte(b.String()))
}
