package forward

// WithoutNFTables makes d what it is on a kernel that has no nf_tables.
func (d *Driver) WithoutNFTables() error {
	conn := d.conn
	d.conn = nil
	return conn.Close()
}
