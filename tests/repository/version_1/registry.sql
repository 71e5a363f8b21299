BEGIN TRANSACTION;
CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE chain_member (
	chain_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	member_id INTEGER NOT NULL, 
	PRIMARY KEY (chain_id, position), 
	FOREIGN KEY(chain_id) REFERENCES collection (id), 
	FOREIGN KEY(member_id) REFERENCES collection (id)
);
INSERT INTO "chain_member" VALUES(4,0,1);
INSERT INTO "chain_member" VALUES(4,1,2);
CREATE TABLE collection (
	id INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	description TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "collection" VALUES(1,'base','run','');
INSERT INTO "collection" VALUES(2,'other','run','');
INSERT INTO "collection" VALUES(3,'toys','run','');
INSERT INTO "collection" VALUES(4,'chain','chain','');
INSERT INTO "collection" VALUES(5,'tagged','tagged','');
INSERT INTO "collection" VALUES(6,'calib','calibration','');
INSERT INTO "collection" VALUES(7,'raw/all','run','');
CREATE TABLE dataset (
	id VARCHAR(32) NOT NULL, 
	type_id INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	data_key TEXT NOT NULL, 
	instrument VARCHAR(128), 
	night BIGINT, 
	exposure BIGINT, 
	visit BIGINT, 
	detector BIGINT, 
	filter VARCHAR(128), 
	band VARCHAR(128), 
	tract BIGINT, 
	patch BIGINT, 
	map VARCHAR(128), 
	channel BIGINT, 
	path TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	checksum VARCHAR(64) NOT NULL, 
	link VARCHAR(16) NOT NULL, 
	quantum_id VARCHAR(64), 
	PRIMARY KEY (id), 
	CONSTRAINT dataset_once_per_run UNIQUE (type_id, run_id, data_key), 
	FOREIGN KEY(type_id) REFERENCES dataset_type (id), 
	FOREIGN KEY(run_id) REFERENCES collection (id), 
	UNIQUE (path)
);
INSERT INTO "dataset" VALUES('5f4a224349d7953ea8f22be7d7b529e1',16,1,'instrument=cam,exposure=0','cam',NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/base/number/number_cam_exp00000000.json',12,'f1340f114221c8242567f1dedda17519619a0c27edc2c4a8fa383b53b52059e1','file',NULL);
INSERT INTO "dataset" VALUES('99cee0bc0279b3728e8fb0e4a9ec999d',16,1,'instrument=cam,exposure=1','cam',NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/base/number/number_cam_exp00000001.json',12,'400dc6c40abf9c42d68a60c05933730622722bada204d02d5c23eec801351765','file',NULL);
INSERT INTO "dataset" VALUES('ecd734895406c22a832a59dd5ae02b8f',16,1,'instrument=cam,exposure=2','cam',NULL,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/base/number/number_cam_exp00000002.json',12,'da5630345e277413a3efc1efc07211b8877e9ef5445ebb270b6e164bf750de6f','file',NULL);
INSERT INTO "dataset" VALUES('bfbfb010980677e9ea6c4fbfb0fb7091',16,1,'instrument=cam,exposure=3','cam',NULL,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/base/number/number_cam_exp00000003.json',12,'5d8482ca58f31ea8bb64e583a823aefc9642a502fbc74c9ba50159989605693f','file',NULL);
INSERT INTO "dataset" VALUES('859115a7efd8931a9b3687bddb521963',17,3,'instrument=cam,exposure=0','cam',NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/toys/total/total_cam_exp00000000.json',26,'8723d31bc1ea8c7f05d87d99c9fc1c8c6c9c6698eaf1244b6ff205a5dc8af712','file','4b464cecc5ea5e033b8126758d215b1f0de0b37d9a32f45a035c226af1f16262');
INSERT INTO "dataset" VALUES('dbd616a5abd4b99e0ab320cd6722edc4',17,3,'instrument=cam,exposure=1','cam',NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/toys/total/total_cam_exp00000001.json',26,'fe46f4c54d57c164016d1b61aea966264bebb0e5a3d14d23eec14df3eb1a7563','file','9443e58ecdee952dcf28ccd2500f4bfc7e2e57f3f4753ebd57ede275f65b3cc0');
INSERT INTO "dataset" VALUES('7c5b1a26eb84baf243f04c957afbdece',17,3,'instrument=cam,exposure=2','cam',NULL,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/toys/total/total_cam_exp00000002.json',26,'370d0507a0280e2af465ee6d7285e3a19c56015d5816ebb3d06f35f68f985377','file','7b7a8db654afc20552d140ebac372b6674923f5b621886961887a04827bda00d');
INSERT INTO "dataset" VALUES('e441fcc4359262dbc64371ff5635f093',17,3,'instrument=cam,exposure=3','cam',NULL,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/toys/total/total_cam_exp00000003.json',26,'819e1837f34a086a7372da8db68098431b2068f5138f22fff6da691db59b2cc8','file','0808791a0fa38ca62608948c1178aec523ccc90bf186634f8f8cce36a294bf97');
INSERT INTO "dataset" VALUES('81eec5a902f99ffd27784a4e9eea330a',18,3,'instrument=cam','cam',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'runs/toys/sum/sum_cam.json',22,'c2da28352b967accfec5b716c2c490b099d33129879fece6c9a0892902a81506','file','8285f80f05eb810e690d160898a99c8fcd694457cdad379ddfa1a594e9aed706');
INSERT INTO "dataset" VALUES('b4a04eb3f132bda388107ad3c51a4e2f',1,7,'instrument=toycam,exposure=100,detector=0','toycam',20260101,100,NULL,0,'g_toy','g',NULL,NULL,NULL,NULL,'runs/raw/all/raw/20260101/raw_toycam_exp00000100_det000.fits',294,'f86c3ed6e7dfb1e6170c40ea63336dabdf5d3334ede644675c1b2e385f6d83d4','file',NULL);
INSERT INTO "dataset" VALUES('63bb5bf2121a8a8b32be0274e9d67a9b',1,7,'instrument=toycam,exposure=101,detector=0','toycam',20260101,101,NULL,0,'g_toy','g',NULL,NULL,NULL,NULL,'runs/raw/all/raw/20260101/raw_toycam_exp00000101_det000.fits',293,'1e6e408d21b266a05594821cb042442134fadcc3df06c528927352514fba8c0f','file',NULL);
INSERT INTO "dataset" VALUES('1d92ae6cd117189f889f4cf2c2c2c999',1,7,'instrument=toycam,exposure=102,detector=0','toycam',20260101,102,NULL,0,'g_toy','g',NULL,NULL,NULL,NULL,'runs/raw/all/raw/20260101/raw_toycam_exp00000102_det000.fits',295,'1fa43e62f54bed7b1d60033ae1909eb2c60c4175de4a1dbe5db5f9595571c957','file',NULL);
CREATE TABLE dataset_type (
	id INTEGER NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	dimensions TEXT NOT NULL, 
	storage VARCHAR(128) NOT NULL, 
	description TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "dataset_type" VALUES(1,'raw','["instrument", "exposure", "detector"]','raw','frame as it left the camera');
INSERT INTO "dataset_type" VALUES(2,'bias','["instrument", "night", "detector"]','master_frame','master bias');
INSERT INTO "dataset_type" VALUES(3,'dark','["instrument", "night", "detector"]','master_frame','master dark current');
INSERT INTO "dataset_type" VALUES(4,'flat','["instrument", "night", "detector", "filter"]','master_frame','master flat field');
INSERT INTO "dataset_type" VALUES(5,'defects','["instrument", "detector"]','json','boxes of bad pixels');
INSERT INTO "dataset_type" VALUES(6,'post_isr','["instrument", "exposure", "detector"]','exposure','exposure in electron, instrument signature removed');
INSERT INTO "dataset_type" VALUES(7,'characterized','["instrument", "exposure", "detector"]','exposure','exposure with PSF, background removed');
INSERT INTO "dataset_type" VALUES(8,'background','["instrument", "exposure", "detector"]','fields','backgrounds that were subtracted');
INSERT INTO "dataset_type" VALUES(9,'catalog','["instrument", "exposure", "detector"]','catalog','sources measured on one exposure');
INSERT INTO "dataset_type" VALUES(10,'template','["instrument", "detector", "band"]','exposure','image that others are compared with');
INSERT INTO "dataset_type" VALUES(11,'difference','["instrument", "exposure", "detector"]','exposure','science minus matched template');
INSERT INTO "dataset_type" VALUES(12,'difference_score','["instrument", "exposure", "detector"]','exposure','significance of the difference');
INSERT INTO "dataset_type" VALUES(13,'matching_kernel','["instrument", "exposure", "detector"]','spatial_kernel','kernel that matched the two images');
INSERT INTO "dataset_type" VALUES(14,'sky_map','["map", "channel"]','sky_map','one map, or one channel of a cube');
INSERT INTO "dataset_type" VALUES(15,'compact_sources','["map", "channel"]','catalog','Gaussian sources of a map');
INSERT INTO "dataset_type" VALUES(16,'number','["instrument", "exposure"]','json','');
INSERT INTO "dataset_type" VALUES(17,'total','["instrument", "exposure"]','json','');
INSERT INTO "dataset_type" VALUES(18,'sum','["instrument"]','json','');
CREATE TABLE document (
	checksum VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (checksum)
);
INSERT INTO "document" VALUES('70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','{"astropy":"8.0.2","numba":"0.68.1","numpy":"2.4.6","python":"3.11.7","scipy":"1.17.1","starmill":"0.1.0"}');
INSERT INTO "document" VALUES('8ccad51ea7526bfd762061881b942d694e6c275badc2bf50928907b4ffa7ebcc','{"datasets":{"sum":{"description":"","dimensions":["instrument"],"storage":"json"},"total":{"description":"","dimensions":["instrument","exposure"],"storage":"json"}},"description":"Adds one to every number, and sums.","pipeline":"toys","subsets":{"first":["add"]},"tasks":{"add":{"cameras":{},"config":{},"for":["instrument","exposure"],"reads":{"number":{"dataset":"number"}},"task":"AddNumberTask","writes":{"total":{"dataset":"total","optional":false}}},"sum":{"cameras":{},"config":{},"for":["instrument"],"reads":{"totals":{"dataset":"total","many":true}},"task":"SumNumbersTask","writes":{"sum":{"dataset":"sum","optional":false}}}}}');
INSERT INTO "document" VALUES('f823d7ebfa108e599699b4604d730ad0f5ec5e65b0094c5e791410a7f31e984c','{"amount": 1, "delay": 0.0}');
INSERT INTO "document" VALUES('44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','{}');
CREATE TABLE exposure (
	instrument VARCHAR(128) NOT NULL, 
	exposure BIGINT NOT NULL, 
	visit BIGINT, 
	night BIGINT, 
	filter VARCHAR(128), 
	band VARCHAR(128), 
	object VARCHAR(128), 
	image_type VARCHAR(32), 
	mjd DOUBLE, 
	exposure_time DOUBLE, 
	airmass DOUBLE, 
	ra DOUBLE, 
	dec DOUBLE, 
	extra TEXT NOT NULL, 
	PRIMARY KEY (instrument, exposure)
);
INSERT INTO "exposure" VALUES('toycam',100,NULL,20260101,'g_toy','g','M 31','science',61041.0,30.0,1.1,0.0,0.0,'{}');
INSERT INTO "exposure" VALUES('toycam',101,NULL,20260101,'g_toy','g','M 31','science',61042.0,30.0,1.1,10.0,0.0,'{}');
INSERT INTO "exposure" VALUES('toycam',102,NULL,20260101,'g_toy','g','M 31','science',61043.0,30.0,1.1,20.0,0.0,'{}');
CREATE TABLE quantum (
	id VARCHAR(64) NOT NULL, 
	run_id INTEGER NOT NULL, 
	label VARCHAR(128) NOT NULL, 
	task VARCHAR(256) NOT NULL, 
	data_key TEXT NOT NULL, 
	content_key VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	config VARCHAR(64), 
	versions VARCHAR(64), 
	inputs TEXT NOT NULL, 
	outputs TEXT NOT NULL, 
	shape TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	finished DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	cpu_seconds DOUBLE NOT NULL, 
	max_rss BIGINT NOT NULL, 
	error TEXT, 
	PRIMARY KEY (id), 
	CONSTRAINT quantum_once_per_run UNIQUE (run_id, label, data_key), 
	FOREIGN KEY(run_id) REFERENCES collection (id)
);
INSERT INTO "quantum" VALUES('4b464cecc5ea5e033b8126758d215b1f0de0b37d9a32f45a035c226af1f16262',3,'add','AddNumberTask','instrument=cam,exposure=0','9952b0eb3a5a47f251c7b91b62dace23a81ed1e05dc871127f6b07a83064891f','done','f823d7ebfa108e599699b4604d730ad0f5ec5e65b0094c5e791410a7f31e984c','70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','[{"keyword": "number", "id": "5f4a224349d7953ea8f22be7d7b529e1", "type": "number", "checksum": "f1340f114221c8242567f1dedda17519619a0c27edc2c4a8fa383b53b52059e1"}]','[{"keyword": "total", "id": "859115a7efd8931a9b3687bddb521963", "type": "total", "checksum": "8723d31bc1ea8c7f05d87d99c9fc1c8c6c9c6698eaf1244b6ff205a5dc8af712"}]','{"many": [], "lazy": [], "outputs": [["total", "json", false]]}',1,1.79518016470009207728e+09,2.21122438000747933983e-01,2.38600514000000041292e-01,108662784,NULL);
INSERT INTO "quantum" VALUES('9443e58ecdee952dcf28ccd2500f4bfc7e2e57f3f4753ebd57ede275f65b3cc0',3,'add','AddNumberTask','instrument=cam,exposure=1','e53cd2ecad7746750cc73fb2e8357fb3c57f5146fee40f81da9892ee70647a1d','done','f823d7ebfa108e599699b4604d730ad0f5ec5e65b0094c5e791410a7f31e984c','70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','[{"keyword": "number", "id": "99cee0bc0279b3728e8fb0e4a9ec999d", "type": "number", "checksum": "400dc6c40abf9c42d68a60c05933730622722bada204d02d5c23eec801351765"}]','[{"keyword": "total", "id": "dbd616a5abd4b99e0ab320cd6722edc4", "type": "total", "checksum": "fe46f4c54d57c164016d1b61aea966264bebb0e5a3d14d23eec14df3eb1a7563"}]','{"many": [], "lazy": [], "outputs": [["total", "json", false]]}',1,1.79518016470016765592e+09,5.82686001507681794464e-04,5.33290000000130604007e-04,108662784,NULL);
INSERT INTO "quantum" VALUES('7b7a8db654afc20552d140ebac372b6674923f5b621886961887a04827bda00d',3,'add','AddNumberTask','instrument=cam,exposure=2','009d55993f757af573fa104ac6e97d1569d2edd8046e27d41b3b46927a3ea8ea','done','f823d7ebfa108e599699b4604d730ad0f5ec5e65b0094c5e791410a7f31e984c','70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','[{"keyword": "number", "id": "ecd734895406c22a832a59dd5ae02b8f", "type": "number", "checksum": "da5630345e277413a3efc1efc07211b8877e9ef5445ebb270b6e164bf750de6f"}]','[{"keyword": "total", "id": "7c5b1a26eb84baf243f04c957afbdece", "type": "total", "checksum": "370d0507a0280e2af465ee6d7285e3a19c56015d5816ebb3d06f35f68f985377"}]','{"many": [], "lazy": [], "outputs": [["total", "json", false]]}',1,1.79518016470022511487e+09,5.01000999065581709146e-04,4.53046999999928701186e-04,108662784,NULL);
INSERT INTO "quantum" VALUES('0808791a0fa38ca62608948c1178aec523ccc90bf186634f8f8cce36a294bf97',3,'add','AddNumberTask','instrument=cam,exposure=3','8d575864ba22c5a37f7febfd5e31a5611226247ac7bea2a0caa5b9212d7efce4','done','f823d7ebfa108e599699b4604d730ad0f5ec5e65b0094c5e791410a7f31e984c','70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','[{"keyword": "number", "id": "bfbfb010980677e9ea6c4fbfb0fb7091", "type": "number", "checksum": "5d8482ca58f31ea8bb64e583a823aefc9642a502fbc74c9ba50159989605693f"}]','[{"keyword": "total", "id": "e441fcc4359262dbc64371ff5635f093", "type": "total", "checksum": "819e1837f34a086a7372da8db68098431b2068f5138f22fff6da691db59b2cc8"}]','{"many": [], "lazy": [], "outputs": [["total", "json", false]]}',1,1.79518016470028471953e+09,4.87642000734922476112e-04,4.398379999999146861e-04,108662784,NULL);
INSERT INTO "quantum" VALUES('8285f80f05eb810e690d160898a99c8fcd694457cdad379ddfa1a594e9aed706',3,'sum','SumNumbersTask','instrument=cam','067897c671a6f01c38dfa2bc3f98fee8493dc2c60dd552793f96ae9f13d119da','done','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','70cc225f846da84910b49f87d69d7c03d0abb2912ab577941b38c010067f9679','[{"keyword": "totals", "id": "859115a7efd8931a9b3687bddb521963", "type": "total", "checksum": "8723d31bc1ea8c7f05d87d99c9fc1c8c6c9c6698eaf1244b6ff205a5dc8af712"}, {"keyword": "totals", "id": "dbd616a5abd4b99e0ab320cd6722edc4", "type": "total", "checksum": "fe46f4c54d57c164016d1b61aea966264bebb0e5a3d14d23eec14df3eb1a7563"}, {"keyword": "totals", "id": "7c5b1a26eb84baf243f04c957afbdece", "type": "total", "checksum": "370d0507a0280e2af465ee6d7285e3a19c56015d5816ebb3d06f35f68f985377"}, {"keyword": "totals", "id": "e441fcc4359262dbc64371ff5635f093", "type": "total", "checksum": "819e1837f34a086a7372da8db68098431b2068f5138f22fff6da691db59b2cc8"}]','[{"keyword": "sum", "id": "81eec5a902f99ffd27784a4e9eea330a", "type": "sum", "checksum": "c2da28352b967accfec5b716c2c490b099d33129879fece6c9a0892902a81506"}]','{"many": ["totals"], "lazy": [], "outputs": [["sum", "json", false]]}',1,1.79518016471064114575e+09,9.77548999799182638525e-04,9.76627000000007683411e-04,108945408,NULL);
CREATE TABLE session (
	id VARCHAR(64) NOT NULL, 
	run_id INTEGER NOT NULL, 
	pipeline VARCHAR(64), 
	state VARCHAR(16) NOT NULL, 
	started DOUBLE NOT NULL, 
	updated DOUBLE NOT NULL, 
	counts TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run_id) REFERENCES collection (id)
);
INSERT INTO "session" VALUES('20261120T130923-163d5928',3,'8ccad51ea7526bfd762061881b942d694e6c275badc2bf50928907b4ffa7ebcc','finished',1.79518016393807220464e+09,1.79518016471530079836e+09,'{"add": {"total": 4, "done": 4}, "sum": {"total": 1, "done": 1}}');
CREATE TABLE sky_region (
	instrument VARCHAR(128) NOT NULL, 
	exposure BIGINT NOT NULL, 
	detector BIGINT NOT NULL, 
	ra DOUBLE NOT NULL, 
	dec DOUBLE NOT NULL, 
	radius DOUBLE NOT NULL, 
	corners TEXT NOT NULL, 
	PRIMARY KEY (instrument, exposure, detector)
);
INSERT INTO "sky_region" VALUES('toycam',100,0,8.54839168716271e-15,0.0,0.707102293688337,'[[359.5, -0.5], [0.5, -0.5], [0.5, 0.5], [359.5, 0.5]]');
INSERT INTO "sky_region" VALUES('toycam',101,0,10.0,0.0,7.07102293688344207822e-01,'[[9.5, -0.5], [10.5, -0.5], [10.5, 0.5], [9.5, 0.5]]');
INSERT INTO "sky_region" VALUES('toycam',102,0,20.0,0.0,7.07102293688343097599e-01,'[[19.5, -0.5], [20.5, -0.5], [20.5, 0.5], [19.5, 0.5]]');
CREATE TABLE sky_tile (
	tile INTEGER NOT NULL, 
	instrument VARCHAR(128) NOT NULL, 
	exposure BIGINT NOT NULL, 
	detector BIGINT NOT NULL, 
	PRIMARY KEY (tile, instrument, exposure, detector)
);
INSERT INTO "sky_tile" VALUES(4976,'toycam',100,0);
INSERT INTO "sky_tile" VALUES(5155,'toycam',100,0);
INSERT INTO "sky_tile" VALUES(5156,'toycam',100,0);
INSERT INTO "sky_tile" VALUES(5335,'toycam',100,0);
INSERT INTO "sky_tile" VALUES(4980,'toycam',101,0);
INSERT INTO "sky_tile" VALUES(4981,'toycam',101,0);
INSERT INTO "sky_tile" VALUES(5160,'toycam',101,0);
INSERT INTO "sky_tile" VALUES(5161,'toycam',101,0);
INSERT INTO "sky_tile" VALUES(4985,'toycam',102,0);
INSERT INTO "sky_tile" VALUES(4986,'toycam',102,0);
INSERT INTO "sky_tile" VALUES(5165,'toycam',102,0);
INSERT INTO "sky_tile" VALUES(5166,'toycam',102,0);
CREATE TABLE tag (
	collection_id INTEGER NOT NULL, 
	dataset_id VARCHAR(32) NOT NULL, 
	PRIMARY KEY (collection_id, dataset_id), 
	FOREIGN KEY(collection_id) REFERENCES collection (id), 
	FOREIGN KEY(dataset_id) REFERENCES dataset (id) ON DELETE CASCADE
);
INSERT INTO "tag" VALUES(5,'5f4a224349d7953ea8f22be7d7b529e1');
INSERT INTO "tag" VALUES(5,'99cee0bc0279b3728e8fb0e4a9ec999d');
CREATE TABLE validity (
	collection_id INTEGER NOT NULL, 
	dataset_id VARCHAR(32) NOT NULL, 
	begin_mjd DOUBLE NOT NULL, 
	end_mjd DOUBLE NOT NULL, 
	PRIMARY KEY (collection_id, dataset_id, begin_mjd), 
	FOREIGN KEY(collection_id) REFERENCES collection (id), 
	FOREIGN KEY(dataset_id) REFERENCES dataset (id) ON DELETE CASCADE
);
INSERT INTO "validity" VALUES(6,'ecd734895406c22a832a59dd5ae02b8f',61000.0,62000.0);
INSERT INTO "validity" VALUES(6,'bfbfb010980677e9ea6c4fbfb0fb7091',61000.0,62000.0);
CREATE INDEX exposure_by_object ON exposure (object);
CREATE INDEX exposure_by_mjd ON exposure (mjd);
CREATE INDEX exposure_by_night ON exposure (night, band);
CREATE INDEX exposure_by_type ON exposure (image_type, night);
CREATE INDEX sky_tile_by_exposure ON sky_tile (instrument, exposure, detector);
CREATE INDEX dataset_by_run ON dataset (run_id, type_id);
CREATE INDEX dataset_by_map ON dataset (type_id, map, channel);
CREATE INDEX dataset_by_exposure ON dataset (type_id, exposure, detector);
CREATE INDEX dataset_by_checksum ON dataset (checksum);
CREATE INDEX dataset_by_night ON dataset (type_id, night, band);
CREATE INDEX dataset_by_filter ON dataset (type_id, filter, night);
CREATE INDEX dataset_by_patch ON dataset (type_id, tract, patch);
CREATE INDEX validity_by_dataset ON validity (dataset_id);
CREATE INDEX tag_by_dataset ON tag (dataset_id);
COMMIT;
