package adopt

// WithoutNFTables makes f what it is on a kernel that has no nf_tables.
func (f *Flannel) WithoutNFTables() error {
	rules := f.rules
	f.rules = nil
	return rules.Close()
}
